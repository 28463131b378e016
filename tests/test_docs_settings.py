"""The table of all settings in the documentation is what the declarations say."""

import re

import pytest

from commands.options import in_words
from fame.settings import Settings
from fame.store_spec import StoreSpec
from preprocess.config import PreprocessConfig, WorldSpec
from tests.markdown import ROOT, pages
from train.config import FinetuneConfig, LaunchConfig, PretrainConfig
from train.evaluate.config import (
    ActivationConfig,
    BiasConfig,
    ClassifierConfig,
    EvaluationConfig,
    KnnConfig,
    LinearConfig,
    RetrievalConfig,
)

PAGE = ROOT / "docs" / "settings.md"
KINDS: dict[str, type[Settings]] = {
    "`fame preprocess`: the store": StoreSpec,
    "`fame preprocess`: the stage": PreprocessConfig,
    "`fame pretrain`": PretrainConfig,
    "`fame finetune`": FinetuneConfig,
    "`--launcher ray`": LaunchConfig,
    "`fame evaluate`": EvaluationConfig,
    "`fame evaluate knn`": KnnConfig,
    "`fame evaluate retrieval`": RetrievalConfig,
    "`fame evaluate linear`": LinearConfig,
    "`fame evaluate test`": ClassifierConfig,
    "`fame activate`": ActivationConfig,
    "`fame bias`": BiasConfig,
    "`fame demo`: the videos": WorldSpec,
}
HEAD = """# Settings

Every setting with its default, its range and what it means. This page is made from the declarations in the code
(`fame/settings.py` says how they are read). On the command line a setting is an option, `--batch 32`, or `--set batch=32`; in a
file for `--config` it is a key. Defaults of `fame pretrain` are those of its config; the recipe changes some: `fame pretrain
--recipe NAME --show-config` prints what a run will use.
"""


def values(field) -> str:
    if field.choices:
        return ", ".join(f"`{choice}`" for choice in field.choices)
    names = " or ".join(getattr(kind, "__name__", str(kind)) for kind in field.kinds)
    return " ".join(filter(None, (names, field.setting.range)))


def default(field) -> str:
    shown = field.default
    return f"`{in_words(shown)}`" if isinstance(shown, str | int | float | tuple) else "-"


def page() -> str:
    parts = [HEAD]
    for title, kind in KINDS.items():
        parts.append(
            f"\n## {title}\n\n| setting | default | values | meaning |\n|---|---|---|---|\n"
        )
        for name, field in kind.fields().items():
            if field.setting.option != "":
                parts.append(
                    f"| `{name}` | {default(field)} | {values(field)} | {field.setting.help} |\n"
                )
    return "".join(parts).replace(" | none", " or none")


def test_the_page_says_what_the_declarations_say(request: pytest.FixtureRequest) -> None:
    """After a change of a setting: ``pytest tests/test_docs_settings.py --update-golden``."""
    if request.config.getoption("--update-golden"):
        PAGE.write_text(page())
    assert PAGE.read_text() == page()


def test_every_setting_has_a_sentence() -> None:
    for kind in KINDS.values():
        for name, field in kind.fields().items():
            assert field.setting.help.endswith("."), f"{kind.__name__}.{name}"


def test_values_that_pages_name_are_taken() -> None:
    """Such as ``views=single|both`` or ``--cut adaptive``."""
    choices: dict[str, set[str]] = {}
    for kind in KINDS.values():
        for name, field in kind.fields().items():
            choices.setdefault(name, set()).update(field.choices)
    named = [
        (page.name, name, value)
        for page in pages()
        for name, values in re.findall(r"`(?:--)?([a-z_-]+)[= ]([a-z0-9_|]+)`", page.read_text())
        for value in values.split("|")
        if choices.get(name.replace("-", "_"))
    ]
    assert len(named) > 20
    assert [each for each in named if each[2] not in choices[each[1].replace("-", "_")]] == []
