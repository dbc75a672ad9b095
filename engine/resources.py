"""Where the files under ``resources/`` are: from source, from a wheel and frozen."""

from pathlib import Path


def resource(name: str) -> Path:
    """Path of the resource ``name``, such as ``"hardware/eyeriss.toml"``.

    One rule serves all three: ``resources`` lies beside the ``engine`` package, in a checkout,
    in site-packages and in PyInstaller's folder.

    Raises:
        FileNotFoundError: the installation lacks that file.
    """
    path = Path(__file__).resolve().parent.parent / "resources" / name
    if not path.exists():
        raise FileNotFoundError(f"Secateur's own file resources/{name} is missing: reinstall it")
    return path
