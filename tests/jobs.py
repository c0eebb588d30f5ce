"""Jobs in a folder, without a lock."""

from sessions import params

from specdiag.recipe import Job


def job(folder, *, parent=None, scale="desk", name="tiny", **changed):
    folder.mkdir(parents=True, exist_ok=True)
    return Job(
        name=name,
        scale=scale,
        params=params(**changed),
        parent=parent,
        inputs={},
        folder=folder,
        output=folder / "model.ckpt",
    )
