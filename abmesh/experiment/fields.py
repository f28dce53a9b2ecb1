"""Types of the document's simple fields: strings in a certain form, flags, prices. Pure; the models use them.

By default pydantic converts values: ``"8001"`` to a port, ``yes`` to true. These types do not.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field, Strict, StringConstraints

LONGEST_TOKEN = 128
"""Most characters of a cookie's name."""

FORMS: dict[str, str] = {}
"""What each pattern below allows, in words, for :mod:`abmesh.experiment.problems`."""


LONGEST: dict[str, int] = {}
"""Most characters of what each pattern allows, for schemas that must bound every string."""


def form(pattern: str, words: str, longest: int) -> StringConstraints:
    """A string that matches a pattern.

    Args:
        pattern: begins with ``^`` and ends with ``$``.
        words: its meaning, for :data:`FORMS`.
        longest: most characters that match, for :data:`LONGEST`.
    """
    FORMS[pattern] = words
    LONGEST[pattern] = longest
    return StringConstraints(pattern=pattern)


_LABEL: Final = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
DNS_LABEL: Final = f"^{_LABEL}$"
LABEL_FORM: Final = "a DNS label: 1 to 63 lower-case letters, digits and -, such as model-b; no - at either end"
DnsLabel = Annotated[str, form(DNS_LABEL, LABEL_FORM, longest=63)]
ExperimentName = Annotated[
    str, form(f"^({_LABEL}/)?{_LABEL}$", LABEL_FORM, longest=127), Field(json_schema_extra={"pattern": DNS_LABEL})
]
"""A DNS label in a file; in a cluster, one of the namespace before it: ``llm/chat``."""
Token = Annotated[
    str,
    form(
        rf"^[A-Za-z0-9!#$%&'*+.^_`|~-]{{1,{LONGEST_TOKEN}}}$",
        f"a cookie's name: 1 to {LONGEST_TOKEN} letters, digits and any of !#$%&'*+.^_`|~-",
        longest=128,
    ),
]
EVENT_NAME: Final = r"^[a-z][a-z0-9_]{0,62}$"
EventName = Annotated[
    str, form(EVENT_NAME, "1 to 63 lower-case letters, digits and _, starting with a letter", longest=63)
]
SegmentValue = Annotated[
    str,
    form(
        r"^[A-Za-z0-9]([A-Za-z0-9_-]{0,62})$",
        "1 to 63 letters, digits, _ and -, starting with a letter or a digit",
        longest=63,
    ),
]
HeaderValue = Annotated[
    str,
    form(
        r"^[\x21-\x7e]([\x20-\x7e]{0,1022}[\x21-\x7e])?$",
        "1 to 1024 printable ASCII characters, with no space at either end",
        longest=1024,
    ),
]
Headers = Annotated[dict[str, HeaderValue], Field(max_length=32)]
"""Names of headers with their values."""

Salt = Annotated[str, form(r"^[A-Za-z0-9._-]{1,128}$", "1 to 128 letters, digits, ., _ and -", longest=128)]
SecretFile = Annotated[
    str,
    form(
        r"^/[^\x00-\x1f\x7f]{1,1023}$",
        "an absolute path of at most 1024 characters, such as /run/secrets/salt",
        longest=1024,
    ),
]
EnvironmentName = Annotated[
    str, form(r"^[A-Za-z_][A-Za-z0-9_]{0,127}$", "an environment variable's name, such as ABMESH_SALT", longest=128)
]
ClusterName = Annotated[
    str, form(r"^[\x21-\x7e]{1,253}$", "1 to 253 printable ASCII characters without spaces", longest=253)
]
Host = Annotated[str, form(r"^[A-Za-z0-9._:-]{1,253}$", "a host name or an IP address", longest=253)]
HostName = Annotated[
    str,
    StringConstraints(to_lower=True),
    form(r"^[A-Za-z0-9._-]{1,253}$", "a host name without a port", longest=253),
]
PathPrefix = Annotated[
    str,
    form(
        r"^/[\x21\x22\x24-\x3e\x40-\x7e]{0,1023}$",
        "1 to 1024 printable ASCII characters without spaces, ? and #, starting with /",
        longest=1024,
    ),
]
CookiePath = Annotated[
    str,
    form(
        r"^/[\x21-\x3a\x3c-\x7e]{0,255}$", "1 to 256 printable ASCII characters without ;, starting with /", longest=256
    ),
]
FilePath = Annotated[
    str,
    form(
        r"^/[^\x00-\x1f\x7f]{0,4094}$",
        "the absolute path of a file on Envoy's machine: 1 to 4095 characters, starting with /, no control characters",
        longest=4095,
    ),
]
CookieDomain = Annotated[str, form(r"^[A-Za-z0-9.-]{1,253}$", "a domain name", longest=253)]
QueryName = Annotated[str, form(r"^[A-Za-z0-9._~-]{1,128}$", "1 to 128 letters, digits, ., _, ~ and -", longest=128)]
JsonKey = Annotated[str, form(r"^[A-Za-z0-9_-]{1,64}$", "a JSON key: 1 to 64 letters, digits, _ and -", longest=64)]
FieldPath = Annotated[
    str,
    form(
        r"^[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_-]{1,64}){0,3}$",
        "1 to 4 JSON keys with dots between them, such as usage.completion_tokens; "
        "each of 1 to 64 letters, digits, _ and -",
        longest=259,
    ),
]
JsonText = Annotated[
    str,
    form(
        r"^[\x20\x21\x23-\x5b\x5d-\x7e]{1,256}$",
        "1 to 256 printable ASCII characters without double quotes and backslashes",
        longest=256,
    ),
]
Origin = Annotated[
    str,
    form(
        r"^https?://[a-z0-9.-]{1,253}(:[0-9]{1,5})?$",
        "a web page's origin as browsers send it: https:// or http://, a lower-case host, and a port unless it is the "
        "default; nothing after it; such as https://app.example",
        longest=267,
    ),
]
HttpUrl = Annotated[
    str,
    StringConstraints(max_length=1024),
    form(
        r"^https?://([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?(/[\x21\x22\x24-\x7e]*)?$",
        "http:// or https://, a host, perhaps a port and a path, such as http://prometheus:9090; no user name and no #",
        longest=1024,
    ),
]
Flag = Annotated[bool, Strict()]
Dollars = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
