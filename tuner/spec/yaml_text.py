"""Reading YAML that a user wrote: a key that stands twice in one mapping is an error, not the last one's value."""

from __future__ import annotations

from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: list[Any] = []  # a list, for a key may be one
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # `<<: *other` has no value of its own
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
            seen.append(key)
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> Any:
    """What ``text`` says. ``yaml.YAMLError`` where it is not valid, ``ValueError`` for a date that there is not."""
    return yaml.load(text, Loader=_Loader)
