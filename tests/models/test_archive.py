"""Archives are judged by what they declare, before anything is unpacked."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import pytest

from cake_cli.config import TeacherConfig
from cake_cli.errors import ModelFileError
from cake_cli.models import archive
from cake_cli.models.loading import load_classifier


def bomb(path: Path, *names: str) -> Path:
    """An archive whose entries unpack to a thousand times its size."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name in names:
            target.writestr(f"m/{name}", bytes(8_000_000))
    return path


@pytest.mark.parametrize("names", [
    ("constants.pkl", "code/__torch__.py", "data.pkl"),
    ("archive_format", "models/model.json"),
    ("data.pkl", "data/0"),
], ids=["torchscript", "pt2", "checkpoint"])  # fmt: skip
def test_a_zip_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]) -> None:
    monkeypatch.setattr(archive, "SLACK", 1_000_000)
    with pytest.raises(ModelFileError, match=r"would unpack from [\d,]+ to [\d,]+ bytes.*not loaded"):
        load_classifier(bomb(tmp_path / "model.pt", *names), TeacherConfig(trust=True))


def test_small_archives_may_unpack_to_more(tmp_path: Path) -> None:
    assert len(archive.require_sound_archive(bomb(tmp_path / "model.pt", "data.pkl"))) == 1


def test_two_entries_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as target, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        target.writestr("m/data.pkl", b"1")
        target.writestr("m/data.pkl", b"2")
    with pytest.raises(ModelFileError, match="two entries of one name"):
        archive.require_sound_archive(path)
