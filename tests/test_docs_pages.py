"""What pages say about the files of the project: links, targets of make, versions, reasons, the
tree.
"""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from tests.markdown import ROOT, pages

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OUTSIDE = ("http:", "https:", "mailto:", "#")


@pytest.mark.parametrize(
    "page", [*pages(), ROOT / "CHANGELOG.md"], ids=lambda page: str(page.relative_to(ROOT))
)
def test_links_lead_to_files(page: Path) -> None:
    """The site's own build checks those between its pages, and their anchors; this checks the files
    around it too.
    """
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        assert target.startswith(OUTSIDE) or (page.parent / target.partition("#")[0]).exists(), (
            target
        )


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_make_has_the_targets_that_are_mentioned(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    mentioned = set(re.findall(r"(?:`|^ {4}|^)make ([a-z-]+)", page.read_text(), re.MULTILINE))
    assert mentioned <= targets


def test_the_quick_start_installs_the_torch_that_was_tested() -> None:
    (pinned,) = re.findall(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert f"torch=={pinned}\n" in (ROOT / "docs" / "quickstart.md").read_text()


def test_pinned_versions_install_on_the_oldest_python_that_is_promised() -> None:
    """Packages leave old patch releases behind first: Debian 12 has Python 3.11.2."""
    oldest = PROJECT["requires-python"].removeprefix(">=") + ".0"
    pins = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    wants = {
        found.name.lower(): found.metadata["Requires-Python"] or ""
        for found in metadata.distributions()
    }
    assert {
        pin: want for pin in pins if oldest not in SpecifierSet(want := wants.get(pin.lower(), ""))
    } == {}


def test_changelog_and_citation_know_the_version() -> None:
    version = PROJECT["version"]
    assert re.search(
        rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$",
        (ROOT / "CHANGELOG.md").read_text(),
        re.MULTILINE,
    )
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()


def test_every_dependency_has_its_reason() -> None:
    reasons = (ROOT / "docs" / "dependencies.md").read_text()
    extras = [name for names in PROJECT["optional-dependencies"].values() for name in names]
    for requirement in PROJECT["dependencies"] + extras:
        name = re.match(r"[\w-]+", requirement)[0]
        assert name == PROJECT["name"] or re.search(
            rf"(?<![\w-]){re.escape(name)}(?![\w-])", reasons
        ), name


def test_every_file_of_the_tree_is_there() -> None:
    tree = (ROOT / "README.md").read_text().partition("## The tree\n")[2].partition("\n\n")[0]
    for line in tree.splitlines():
        folder = ROOT / "fame" if line.startswith(" " * 6) else ROOT
        for name in re.findall(r"(?<!\S)([a-z0-9_]+(?:\.py|/))(?=\s{2})", line):
            assert (folder / name).exists(), name


EVIDENCE = [
    f"evidence_{name}"
    for name in (
        *("frames", "still", "camera", "longer", "backgrounds", "ablations", "masks"),
        *("tempting_masks", "tempting_masks_longer", "tempting_own", "tempting_bold"),
        *("tempting_strong", "tempting_strong_longer"),
        *("pointing_cores", "pointing_cores_longer"),
    )
]


@pytest.mark.parametrize("name", [*EVIDENCE, "footage", "footage_bias"])
def test_the_evidence_is_shown_as_it_was_measured(name: str) -> None:
    measured = (ROOT / "benchmarks" / "results" / f"{name}.md").read_text()
    assert measured.strip() in (ROOT / "docs" / "evidence-tables.md").read_text()
