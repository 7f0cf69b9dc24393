"""Reads YAML written by others in bounded time and memory: a hostile file is one line of fault, not a crash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 100_000
MAX_DEPTH = 32
"""Levels of mappings and lists within each other; a rule of rules in the demo has 6."""
MAX_VALUES = 20_000
"""Keys and values with every alias written out; the longest shipped profile has about 300."""
MAX_CHARACTERS = 10_000
"""Of one key or value."""
_MAX_DIGITS = 20


class YamlFault(Exception):
    """The file cannot be used; the message is one line and quotes no value, since a value may be a secret."""


def read_yaml(path: Path) -> Any:
    """The content of a YAML file, as ``yaml.safe_load`` returns it.

    Raises:
        YamlFault: the file cannot be read or is not YAML, a key is repeated in a mapping, a value has a tag, or a limit
            of this module is exceeded.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise YamlFault(f"has more than {MAX_BYTES:,} bytes")
        text = content.decode("utf-8-sig")
        _check_limits(text)
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        raise YamlFault(_position(error.problem_mark or error.context_mark) + str(error.problem)) from None
    except (OSError, ValueError, yaml.YAMLError) as error:  # a date such as 2020-13-45 is a ValueError
        raise YamlFault(" ".join(str(error).split())) from None


class _Loader(yaml.SafeLoader):
    """Refuses repeated keys, of which YAML's own loader keeps the last, and integers of absurd length."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    problem = f"key {key.value[:100]!r} is repeated; keep one"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                seen.add((key.tag, key.value))
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > _MAX_DIGITS:
            problem = f"a number has more than {_MAX_DIGITS} digits"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return super().construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _check_limits(text: str) -> None:
    """Counts what the file would become before anything is built: an alias counts as all that it stands for."""
    values, open_nodes = 0, list[tuple[str | None, int]]()
    sizes: dict[str, int] = {}

    def refuse(problem: str, event: yaml.Event) -> None:
        raise YamlFault(_position(event.start_mark) + problem)

    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_nodes):
                refuse(f"alias *{str(event.anchor)[:100]} contains itself", event)
            values += sizes.get(str(event.anchor), 0)  # an unknown alias is reported by the loader
        elif isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            values += 1
            if event.tag is not None:
                refuse("tags such as !!int are not supported; write the plain value", event)
            if isinstance(event, yaml.ScalarEvent):
                if len(event.value) > MAX_CHARACTERS:
                    refuse(f"a value has more than {MAX_CHARACTERS:,} characters", event)
                if event.anchor:
                    sizes[event.anchor] = 1
            else:
                open_nodes.append((event.anchor, values))
                if len(open_nodes) > MAX_DEPTH:
                    refuse(f"more than {MAX_DEPTH} levels of mappings and lists", event)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor:
                sizes[anchor] = values - before + 1
        if values > MAX_VALUES:
            refuse(f"more than {MAX_VALUES:,} values, with every alias written out", event)


def _position(mark: Any) -> str:
    return f"line {mark.line + 1}: " if mark else ""
