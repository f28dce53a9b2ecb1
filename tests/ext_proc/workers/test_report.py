import pytest

from ext_proc.telemetry import Config, Counts
from ext_proc.workers.report import Report


def test_a_report_survives_the_pipe() -> None:
    counts = Counts({("e", "v", "header"): 3}, {"request_headers": 3}, config=Config(1, 2.0, 3, "refused\n"))
    report = Report(("127.0.0.1:1", "unix:/x"), counts)
    line = report.to_line()
    assert line.count(b"\n") == 1
    assert Report.from_line(line) == report


@pytest.mark.parametrize(
    "line", [b"", b"hello\n", b"7", b"[]", b"{}", b'{"addresses": 1, "counts": {}}', b"\xff\xfe\n"]
)
def test_a_line_that_is_not_a_report_is_an_error(line: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  any ValueError will do: the supervisor says the rest
        Report.from_line(line)
