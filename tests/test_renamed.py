"""Options of earlier versions: translated, said, and only where they were options."""

import pytest

from commands.renamed import renamed


@pytest.mark.parametrize(
    ("path", "given", "taken"),
    [
        ("fame pretrain", "s.zarr --run r --epochs 3", "s.zarr --run-dir r --epochs 3"),
        ("fame finetune ucf101", "--num-workers=2", "--processes=2"),
        (
            "fame preprocess folder",
            "--clips 2 --frames 4 --stride 3 --width 40",
            "--keep 3 --width 40",
        ),
        ("fame preprocess k400", "--clips=2 --split val", "--split val"),
        ("fame evaluate knn", "c.pt --clips 4 --frames 8", "c.pt --clips 4 --frames 8"),
        ("fame pretrain", "--frames 8 --run-dir r", "--frames 8 --run-dir r"),
        ("fame pretrain", "--mask seed --beta 0.3", "--mask difference --beta 0.3"),
        ("fame preprocess folder", "--foreground=seed", "--foreground difference"),
    ],
)
def test_old_names_are_taken(
    path: str, given: str, taken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert renamed(path, given.split()) == taken.split()
    assert ("fame: --" in capsys.readouterr().err) == (given != taken)


def test_the_old_name_of_a_value_is_the_new_one() -> None:
    from train.config import FinetuneConfig, PretrainConfig

    assert PretrainConfig(mask="seed").mask == "difference"  # pyright: ignore
    assert FinetuneConfig().override(["mask=seed"]).mask == "difference"
