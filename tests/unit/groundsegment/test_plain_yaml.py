"""YAML as people write it, and none of its bombs."""

import pytest
import yaml

from groundsegment import plain_yaml
from groundsegment.errors import InputError
from groundsegment.planner.contact_plan import load_contact_plan

LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}]\n" for old, new in zip("abcdefghijklm", "bcdefghijklmn", strict=True)
)


def test_plain_yaml_is_read():
    assert plain_yaml.load("a: 1\nb: [x, {c: 2030-01-01}]\n")["a"] == 1


@pytest.mark.parametrize("text", [LAUGHS, "a: &a [1]\nb: *a\n", "a: &a\n  b: *a\n"])
def test_aliases_are_refused(text):
    with pytest.raises(yaml.MarkedYAMLError, match="aliases"):
        plain_yaml.load(text)
    with pytest.raises(yaml.MarkedYAMLError, match="aliases"):
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
