"""YAML as people write it, and none of its bombs."""

import pytest
import yaml

from groundsegment import plain_yaml
from groundsegment.errors import InputError
from groundsegment.planner.contact_plan import load_contact_plan

LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}]\n" for old, new in zip("abcdefghijklmnopqrst", "bcdefghijklmnopqrstu", strict=True)
)

WIDE = "a: &a [" + "x, " * 500 + "]\nb: &b [" + "*a, " * 500 + "]\nc: [*b, *b]\n"
MERGED = "a: &a {" + "".join(f"k{n}: 1, " for n in range(500)) + "}\nb:\n  <<: [" + "*a, " * 500 + "]\n"


def test_plain_yaml_is_read():
    assert plain_yaml.load("a: 1\nb: [x, {c: 2030-01-01}]\n")["a"] == 1


def test_aliases_and_merged_maps_are_read():
    text = "both: &both {loss: 0.1}\nup: *both\ndown: {<<: *both, rate: 1}\n"
    assert plain_yaml.load(text) == {"both": {"loss": 0.1}, "up": {"loss": 0.1}, "down": {"loss": 0.1, "rate": 1}}
    shared = {"loss": 0.1}
    assert plain_yaml.load(yaml.safe_dump({"a": shared, "b": [shared, shared]}))["b"][1] == shared


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "entries"),
        (WIDE, "entries"),
        (MERGED, "entries"),
        ("a: &a [*a]", "itself"),
        ("a: &a\n  b: {c: *a}\n", "itself"),
        ("a: &a " + "[" * 12 + "]" * 12 + "\nb: " + "[" * 12 + "*a" + "]" * 12, "levels"),
        ("a: *b", "undefined"),
    ],
)
def test_aliases_are_counted_as_what_they_stand_for(text, said):
    with pytest.raises(yaml.MarkedYAMLError, match=said):
        plain_yaml.load(text)
    with pytest.raises(yaml.MarkedYAMLError, match=said):
        plain_yaml.compose(text)


@pytest.mark.parametrize("text", ["[" * 2000, "{a: " * 500, "- " * 3000])
def test_deep_nesting_is_refused(text):
    with pytest.raises(yaml.MarkedYAMLError, match="levels"):
        plain_yaml.load(text)


def test_what_only_looks_like_a_date_is_an_error_of_yaml():
    with pytest.raises(yaml.YAMLError):
        plain_yaml.load("epoch: 2026-13-45")


@pytest.mark.parametrize("text", [LAUGHS, "epoch: " + "[" * 3000, "epoch: 2026-13-45"])
def test_a_bomb_of_a_contact_plan_is_refused_with_its_path(tmp_path, text):
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"plan\.yaml"):
        load_contact_plan(path, now_s=0.0)
