"""Datasets: pure functions from (root, split, annotations, fold) to the videos of one split."""

from preprocess.datasets.diving48 import diving48
from preprocess.datasets.folder import folder
from preprocess.datasets.hmdb51 import hmdb51
from preprocess.datasets.kinetics import k400
from preprocess.datasets.listing import Listing
from preprocess.datasets.ucf101 import ucf101

__all__ = ["Listing", "diving48", "folder", "hmdb51", "k400", "ucf101"]
