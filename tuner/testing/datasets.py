"""What every data set keeps."""

from __future__ import annotations

from trainables.data import DataSpec, check, prepare
from trainables.data.store import content
from trainables.datasets import DATASETS, check_row


class DatasetContract:
    """``dataset``: its name. It is decoded, so its files must be on this machine."""

    dataset = ""

    def test_the_row_is_sound(self):
        check_row(DATASETS[self.dataset])
        assert DATASETS[self.dataset].about

    def test_every_split_has_images_of_every_class(self, tmp_path):
        summary = check(DataSpec(self.dataset, "none"), tmp_path)
        assert len(summary.classes) >= 2
        for split, counts in summary.counts.items():
            assert len(counts) == len(summary.classes) and min(counts) > 0, split

    def test_it_is_the_same_on_every_machine(self, tmp_path):
        """The test set above all: it must not depend on chance, nor on what ran before."""
        here, there = (content(prepare(self.dataset, tmp_path / home)) for home in ("here", "there"))
        assert here == there
