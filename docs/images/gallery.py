"""Put the pictures of a whole demo into the documentation, and its page of a run as a browser shows it (python docs/images/gallery.py demo)."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
PICTURES = {
    "report/preview.png": "preview.png",
    "report/curves.png": "curves.png",
    "report/bias/bias.png": "demo-bias.png",
    "report/bias/variants.png": "demo-variants.png",
    "run/merged.png": "merged.png",
}


def screenshot(page: Path, picture: Path, *, width: int, height: int, dark: bool = False) -> None:
    """Write what headless Chromium shows of a page."""
    with tempfile.TemporaryDirectory() as profile:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--hide-scrollbars"]
        scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
        shown = [f"--user-data-dir={profile}", f"--window-size={width},{height}", f"--screenshot={picture}", page.absolute().as_uri()]
        subprocess.run(["chromium", *options, *scheme, *shown], check=True, capture_output=True)


if __name__ == "__main__":
    demo = Path(sys.argv[1])
    for source, name in PICTURES.items():
        shutil.copyfile(demo / source, HERE / name)
    checkpoint, store = demo / "run/checkpoints/last.pt", demo / "stores/world-test.zarr"
    fame = Path(sys.executable).with_name("fame")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([fame, "activate", checkpoint, "--store", store, "--clips", "6", "--rows", "3", "--out", folder], check=True)
        for name in ("activation.png", "kernels.png"):
            shutil.copyfile(Path(folder) / name, HERE / name)
        subprocess.run([fame, "store", "browse", store, "--clips", "8", "--out", Path(folder) / "browse.html"], check=True)
        screenshot(Path(folder) / "browse.html", HERE / "browse.png", width=1000, height=620)
    screenshot(demo / "report/report.html", HERE / "report.png", width=1000, height=1250)
    screenshot(demo / "report/report.html", HERE / "report-dark.png", width=500, height=1250, dark=True)
    for name in ("report.png", "report-dark.png", "browse.png"):
        with Image.open(HERE / name) as image:
            image.convert("P", palette=Image.Palette.ADAPTIVE).save(HERE / name, optimize=True)
