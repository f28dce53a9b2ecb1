"""Edits of a configuration's text: only the lines of what is added, taken out or replaced change. Pure.

In block YAML an edit adds or takes out whole lines; in flow YAML and in JSON, text between brackets. What an
:class:`Editor` has made is read again and compared with what was wanted, so that an unusual way of writing is refused
instead of spoiled.
"""

from __future__ import annotations

from collections.abc import Mapping as JsonMapping
from collections.abc import Sequence as JsonSequence
from typing import Any

from abmesh.experiment.errors import RenderError
from abmesh.mesh.merge.layout import Layout, block_item, indented, lines_of, runs, spans
from abmesh.mesh.merge.look import get, is_empty, own_entry, plain, value_of
from abmesh.mesh.merge.tree import Alias, Mapping, Node, Scalar, Sequence, compose


class Editor:
    """Collects edits of one text. All of them refer to the tree as it was.

    Args:
        text: the configuration.
        source: what to call it in messages.

    Attributes:
        root: its tree.

    Raises:
        RenderError: it is not YAML or JSON.
    """

    def __init__(self, text: str, source: str) -> None:
        self._ends_in_a_line = text.endswith("\n")
        self.text = text if self._ends_in_a_line else text + "\n"
        self.source = source
        self._layout = Layout(self.text)
        self.root = compose(self.text, source)
        self._edits: list[tuple[tuple[int, bool, int, int], int, int, str]] = []
        self._dropped: set[tuple[int, int]] = set()
        self._added: dict[int, list[tuple[int, Any]]] = {}
        self._replaced: dict[int, dict[int, dict[str, Any]]] = {}
        self._touched: dict[int, Mapping | Sequence] = {}

    def put(self, mapping: Mapping, path: JsonSequence[str], value: Any) -> None:
        """Add a field at a path below a mapping, making what is missing on the way; entries of objects are added.

        Raises:
            RenderError: the place is shared through an anchor or a merge key, or holds something else.
        """
        key, *rest = path
        found = own_entry(mapping, key)
        if found is None and get(mapping, key) is not None:
            self._refuse(mapping, f"{key} comes from a merge key (<<); write it out here")
        if found is None or is_empty(found[1]):
            if found is not None:
                self.drop(mapping, key)
            for step in reversed(rest):
                value = {step: value}
            self._add_entry(mapping, key, value)
            return
        inside = found[1]
        if isinstance(inside, Mapping) and (rest or isinstance(value, JsonMapping)):
            if rest:
                self.put(inside, rest, value)
            else:
                for name, each in value.items():
                    self.put(inside, [name], each)
        elif isinstance(inside, Sequence) and not rest and isinstance(value, list):
            self.insert(inside, len(inside.items), value)
        else:
            self._refuse(inside, f"{key} already holds something else; allowed: leave it to abmesh")

    def insert(self, sequence: Sequence, place: int, values: JsonSequence[Any]) -> None:
        """Insert items before the item at a place, or at the end."""
        self._check(sequence)
        if not values:
            return
        self._add(sequence, [(place, value) for value in values])
        if not sequence.is_flow:
            last = place == len(sequence.items)
            at = self._layout.below(sequence.items[-1].end) if last else self._layout.above(self._dash(sequence, place))
            self._edit(sequence, at, at, "".join(block_item(value, sequence.column) for value in values))

    def drop(self, mapping: Mapping, key: str) -> None:
        """Take a field out."""
        self._check(mapping)
        place = next(place for place, (name, _) in enumerate(mapping.entries) if name.text == _own(mapping, key))
        self._drop(mapping, place)
        name, value = mapping.entries[place]
        if not mapping.is_flow:
            self._edit(mapping, self._layout.line(name.start), self._layout.below(value.end), "")

    def drop_item(self, sequence: Sequence, place: int) -> None:
        """Take an item out."""
        self._check(sequence)
        self._drop(sequence, place)
        if not sequence.is_flow:
            self._edit(sequence, self._dash(sequence, place), self._layout.below(sequence.items[place].end), "")

    def raw(self, mapping: Mapping, key: str) -> str:
        """A field as it is written, with whatever follows on its last line; for :meth:`put_raw`."""
        name, value = next(entry for entry in mapping.entries if entry[0].text == _own(mapping, key))
        if mapping.is_flow:
            return self.text[name.start : value.end]
        lines = self.text[self._layout.line(name.start) : self._layout.below(value.end)]
        return "".join(line[mapping.column :] if line.strip() else line for line in lines_of(lines))

    def replace(self, mapping: Mapping, key: str, name: str, value: Any) -> None:
        """Put another field in the place of one."""
        written = self._layout.entry(mapping, name, value)
        self._replace(mapping, key, written, {name: value})

    def put_raw(self, mapping: Mapping, key: str, raw: str) -> None:
        """Put what :meth:`raw` gave in the place of a field."""
        value = plain(compose(raw if raw.endswith("\n") else "{" + raw + "}", self.source))
        if raw.endswith("\n") != mapping.is_flow:
            written = raw if mapping.is_flow else indented(raw, mapping.column)
            self._replace(mapping, key, written, value)
        else:  # the file has been reformatted since
            (name, inner), *_ = value.items()
            self._replace(mapping, key, self._layout.entry(mapping, name, inner), value)

    def result(self) -> str:
        """The text with all edits.

        Raises:
            RenderError: it does not read as was wanted, because of an unusual way of writing.
        """
        for node in self._touched.values():
            if node.is_flow:
                self._between_brackets(node)
        made, last = [], 0
        for _, start, end, written in sorted(self._edits):
            if start < last:
                raise self._unusual()
            made += [self.text[last:start], written]
            last = end
        made.append(self.text[last:])
        text = "".join(made)
        try:
            found = plain(compose(text, self.source))
        except RenderError as error:
            raise self._unusual() from error
        if found != self._wanted(self.root):
            raise self._unusual()
        return text if self._ends_in_a_line else text.removesuffix("\n")

    def drop_upwards(self, steps: JsonSequence[tuple[Mapping, str]]) -> None:
        """Take a field out, and with it the objects above it that hold nothing else.

        Args:
            steps: each mapping on the way and its field, outermost first. The first mapping stays.
        """
        level = len(steps) - 1
        while level and len(steps[level][0].entries) == 1:
            level -= 1
        self.drop(*steps[level])

    def drop_fields(self, steps: JsonSequence[tuple[Mapping, str]], inside: Mapping, keys: JsonSequence[str]) -> None:
        """Take fields out of the mapping that the last step leads to; with them the mapping, if nothing is left."""
        if not keys:
            return
        if len(keys) == len(inside.entries):
            self.drop_upwards(steps)
        else:
            for key in keys:
                self.drop(inside, key)

    def drop_items(self, steps: JsonSequence[tuple[Mapping, str]], inside: Sequence, places: JsonSequence[int]) -> None:
        """Take items out of the sequence that the last step leads to; with them the sequence, if nothing is left."""
        if not places:
            return
        if len(places) == len(inside.items):
            self.drop_upwards(steps)
        else:
            for place in places:
                self.drop_item(inside, place)

    def _add(self, node: Mapping | Sequence, added: list[tuple[int, Any]]) -> None:
        self._touched[id(node)] = node
        self._added.setdefault(id(node), []).extend(added)

    def _drop(self, node: Mapping | Sequence, place: int) -> None:
        self._touched[id(node)] = node
        self._dropped.add((id(node), place))

    def _replace(self, mapping: Mapping, key: str, written: str, value: dict[str, Any]) -> None:
        self._check(mapping)
        place = next(place for place, (name, _) in enumerate(mapping.entries) if name.text == _own(mapping, key))
        name, old = mapping.entries[place]
        self._dropped.add((id(mapping), place))
        self._added.setdefault(id(mapping), []).extend((place, pair) for pair in value.items())
        if mapping.is_flow:
            self._edit(mapping, name.start, old.end, written)
        else:
            self._edit(mapping, self._layout.line(name.start), self._layout.below(old.end), written)

    def _add_entry(self, mapping: Mapping, key: str, value: Any) -> None:
        self._check(mapping)
        self._add(mapping, [(len(mapping.entries), (key, value))])
        if not mapping.is_flow:
            at = self._layout.below(mapping.entries[-1][1].end)
            self._edit(mapping, at, at, self._layout.entry(mapping, key, value))

    def _between_brackets(self, node: Mapping | Sequence) -> None:
        """The edits of a flow collection; taking out is the exact opposite of putting in."""
        where = spans(node)
        added = self._added.get(id(node), [])
        kept = [place for place in range(len(where)) if (id(node), place) not in self._dropped]
        for first, last in runs([place for place in range(len(where)) if place not in kept]):
            if last + 1 < len(where):
                self._edit(node, where[first][0], where[last + 1][0], "")
            else:
                self._edit(node, where[first - 1][1] if first else where[0][0], where[last][1], "")
        between = self._layout.between(node)
        made = [
            (place, self._layout.flow(node, value) if isinstance(node, Sequence) else self._layout.entry(node, *value))
            for place, value in added
        ]
        end = where[-1][1] if where else node.end - 1
        for number, (place, written) in enumerate(made):
            if any(other >= place for other in kept):
                self._edit(node, where[place][0], where[place][0], written + between)
            else:
                self._edit(node, end, end, (between if kept or number else "") + written)

    def _edit(self, node: Mapping | Sequence, start: int, end: int, text: str) -> None:
        # At one place what goes into an inner block comes first, then in the order in which it was asked for.
        order = (start, end > start, -node.column, len(self._edits))
        self._edits.append((order, start, end, text))

    def _dash(self, sequence: Sequence, place: int) -> int:
        found = self._layout.dash(sequence, place)
        if found is None:
            raise self._unusual()
        return found

    def _check(self, node: Node) -> None:
        if node.shared:
            self._refuse(node, "this is used in several places through an anchor (&name); write it out here")

    def _refuse(self, node: Node, why: str) -> None:
        raise RenderError(f"{self.source}:{node.line}: {why}")

    def _unusual(self) -> RenderError:
        return RenderError(
            f"{self.source}: it is written in a way that abmesh cannot edit safely; write the parts that change, one "
            f"field on a line, or merge by hand with --only"
        )

    def _wanted(self, node: Node) -> Any:
        """What the edited text must read as."""
        if isinstance(node, Alias):
            return plain(node.target)
        if isinstance(node, Scalar):
            return value_of(node)
        added = self._added.get(id(node), [])
        if isinstance(node, Sequence):
            made = []
            for place in range(len(node.items) + 1):
                made += [value for where, value in added if where == place]
                if place < len(node.items) and (id(node), place) not in self._dropped:
                    made.append(self._wanted(node.items[place]))
            return made or None if not node.is_flow and node.items else made
        pairs: dict[str, Any] = {}
        replaced = self._replaced.get(id(node), {})
        for place, (key, value) in enumerate(node.entries):
            if place in replaced:
                pairs |= replaced[place]
            elif (id(node), place) not in self._dropped:
                pairs[key.text] = self._wanted(value)
        pairs |= dict(pair for _, pair in added)
        return pairs or None if not node.is_flow and node.entries else pairs


def _own(mapping: Mapping, key: str) -> str:
    """A field's name as the mapping spells it."""
    found = own_entry(mapping, key)
    assert found is not None, key
    return found[0].text
