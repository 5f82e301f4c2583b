"""`isoflop check` on hostile and on absurd values: each value has bounds, and no params.yaml ends in a traceback."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import create_model

from isoflop.project.checking import Remark, check, remarks, stage_schemas
from isoflop.project.plausibility import implausible
from isoflop.runtime.errors import UserError
from isoflop.runtime.params import ParamsError, Section, Shown, declared_keys, read_params
from tests.conftest import ROOT

DEFAULT: dict[str, Any] = yaml.safe_load((ROOT / "presets" / "digits.yaml").read_text())
NUMBERS = ("integer", "number")


@functools.cache
def schemas() -> tuple[type[Section], ...]:
    return tuple(stage_schemas(ROOT).values())


def leaves(schema: type[Section], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key with its JSON schema, of which a nested section has none of its own."""
    for name, info in schema.model_fields.items():
        dotted = prefix + declared_keys(schema).get(name, name)
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from leaves(kind, f"{dotted}.")
        elif kind != Shown:
            definition: Any = (Annotated[kind, info], ...)
            yield (
                dotted,
                create_model("One", __base__=Section, value=definition).model_json_schema()["properties"]["value"],
            )


def parts(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield schema
    for inner in (*schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else ())):
        yield from parts(inner)


def test_every_number_list_and_string_has_bounds() -> None:
    """So that no value that passes can exhaust the memory or overflow in a stage."""
    found = {key: list(parts(schema)) for one in schemas() for key, schema in leaves(one)}
    assert len(found) > 100
    open_ended = []
    for key, kinds in found.items():
        for kind in kinds:
            low, high = ({f"{end}imum", f"exclusive{end.title()}imum"} & set(kind) for end in ("min", "max"))
            if kind.get("type") in NUMBERS and not ("const" in kind or "enum" in kind) and not (low and high):
                open_ended.append(key)
            if kind.get("type") == "array" and "maxItems" not in kind:
                open_ended.append(key)
            if kind.get("type") == "string" and not {"maxLength", "enum", "const", "pattern"} & set(kind):
                open_ended.append(key)
    assert open_ended == []


HOSTILE = st.one_of(
    st.sampled_from(
        [2**64, -(2**64), 10**400, 1e308, -1e308, float("nan"), float("inf"), 5e-324, -1, 0, None, True, ""]
    ),
    st.sampled_from(["\x00", "\x1b[2J", "${train.seed}", "a" * 5000, "../..", "\udcff", "8; touch PWNED; #"]),
    st.sampled_from([[], {}, [[]], [None], {"a": {"b": []}}, [2**64], ["\x1b"], list(range(500))]),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
)


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in entries:
        yield (*path, key)
        yield from places(value, (*path, key))


PLACES = list(places(DEFAULT))


@settings(  # without shrinking, which takes minutes: a failing example is one value already
    max_examples=25,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(place=st.sampled_from(PLACES), value=HOSTILE)
def test_any_value_at_any_key_passes_or_is_a_mistake(tmp_path: Path, place: tuple[Any, ...], value: Any) -> None:
    content = yaml.safe_load(yaml.safe_dump(DEFAULT))
    inside = content
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    file = tmp_path / "params.yaml"
    (tmp_path / "data" / "images").mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(content))
    try:
        check(schemas(), file)
    except UserError as error:
        assert "\n" not in str(error).replace("\\n", "") and len(str(error)) < 5000
        mistakes = error.mistakes if isinstance(error, ParamsError) else [str(error)]
        assert all(mistake.startswith((str(file), "params.yaml: ")) for mistake in mistakes)


BOMB = "x0: &x0 [a,a,a,a,a,a,a,a,a]\n" + "".join(
    f"x{level}: &x{level} [{','.join([f'*x{level - 1}'] * 9)}]\n" for level in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rec: &r [*r]\n", ":1: not valid YAML: an alias contains itself"),
        ("rec: &r\n  a: {b: *r}\n", "not valid YAML: an alias contains itself"),
        (BOMB, "not valid YAML: aliases expand to more than 200000 values"),
        ("a: " + "[" * 5000, "not valid YAML"),
        ("a: " + "[" * 100 + "]" * 100, "more than 50 nested levels"),
        ("a: " + "9" * 5000, "not valid YAML"),
        ("? [1, 2]\n: 3\n? {a: 1}\n: 2\n", "params.yaml"),
        ("a: 1\na: 2\n", ":2: not valid YAML"),
        ("a: !!python/object/apply:os.system [true]\n", "not valid YAML"),
        ("a: \x00\n", "not valid YAML"),
        ("a: 1\nb: 2\t# two\n", ":2: not valid YAML: got a tab, expected spaces"),
        ("a: ! 5\n", "not valid YAML: got the tag '!'"),
        ("a: -_5\n", "not valid YAML: got '-_5', expected a number without '_'"),
        ("a: 2026-01-31\n", "not valid YAML: got the date 2026-01-31, expected it in quotes"),
        ("%YAML 1.1\n---\na: 010\n", "not valid YAML: got a directive"),
        ("a: &a {b: 1}\nc: {<<: [*a]}\n", "not valid YAML: got the key '<<' without a mapping"),
        ("a: &b:http://host\n", "not valid YAML: got the anchor 'b' without a space after it"),
        ("a: ${oc.env:HOME}\n", "a: got an interpolation (${…}), expected a plain value"),
        ("a: [1, {b: 'x${c}'}]\n", "a.1.b: got an interpolation"),
    ],
)
def test_hostile_yaml_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        check(schemas(), file)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_an_alias_that_is_harmless_is_read(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("a: &a {b: 1e-3}\nc: *a\n")
    assert read_params(file) == {"a": {"b": 0.001}, "c": {"b": 0.001}}


def test_mistakes_have_lines_and_are_in_the_order_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "data" / "images").mkdir(parents=True)
    file = tmp_path / "params.yaml"
    text = (ROOT / "presets" / "digits.yaml").read_text()
    for old, new in (
        ("heads: 4", "heads: four"),
        ("val_fraction: 0.4", "val_fraction: 2.0"),
        ("name: Affine", "name: Afine"),
    ):
        assert old in text
        text = text.replace(old, new)
    file.write_text(text.replace("  ece_bins: 15\n", ""))
    with pytest.raises(ParamsError) as caught:
        check(schemas(), file)
    found = remarks(caught.value.mistakes, file)
    assert [remark.key for remark in found] == [
        "prepare.val_fraction",
        "augment.policy.0.name",
        "model.heads",
        "evaluate.ece_bins",
    ][0 : len(found)]
    lines = file.read_text().splitlines()
    for remark in found[:-1]:
        assert remark.line and lines[remark.line - 1].strip(" -").startswith(remark.key.rpartition(".")[2])
    missing = found[-1]
    assert missing.line and lines[missing.line - 1] == "evaluate:" and missing.message == "the key is missing"


def test_a_message_without_a_key_comes_last(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("a: 1\n")
    found = remarks([f"{file}: not much to say: of this", f"{file}: a: got 1"], file)
    assert found == [Remark(1, "a", "got 1"), Remark(None, "", "not much to say: of this")]
    assert found[0].located(Path("params.yaml")) == "params.yaml:1: a: got 1"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"model": {"family": "vit", "patch_size": 4}, "prepare": {"image_size": 224}},
            r"model\.patch_size: .*3,136 tok",
        ),
        ({"recipe": {"optimizer": "adamw", "learning_rate": 1.0}}, r"recipe\.learning_rate: got 1, "),
        ({"prepare": {"image_size": 1024}}, r"prepare\.image_size: got 1024, .*256 times"),
        ({"recipe": {"cutout": 8}}, r"recipe\.cutout: got 8 pixels for images of 8"),
        ({"model": {"dropout": 0.9}}, r"model\.dropout: got 0\.9"),
        ({"prepare": {"test_fraction": 0.9}}, r"prepare\.test_fraction: .* leaves \d+ %"),
        ({"recipe": {"batch_size": 1024}}, r"recipe\.batch_size: got 1024 for the 1,797 images of digits"),
        ({"train": {"width": 4096}}, r"train\.width: got 4096, 171 times the largest width"),
        ({"qat": {"learning_rate": 0.5}}, r"qat\.learning_rate: got 0\.5"),
    ],
)
def test_valid_and_absurd_is_a_warning(changes: dict[str, dict[str, Any]], said: str) -> None:
    params = {name: section | changes.get(name, {}) for name, section in DEFAULT.items()}
    (warning,) = implausible(params)
    assert re.match(said, warning) and "fix: " in warning


@pytest.mark.parametrize("preset", sorted((ROOT / "presets").glob("*.yaml")), ids=lambda file: file.stem)
def test_no_preset_is_absurd(preset: Path) -> None:
    assert implausible(yaml.safe_load(preset.read_text())) == []
