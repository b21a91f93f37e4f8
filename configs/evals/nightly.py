"""What to run on each checkpoint of a demo run: sets whose data packages ship.

python -m clipjax.evaluate --workdir=runs/quickstart --watch --suite=configs/evals/nightly.py

A file like this may name sets of the registry, `suites.get("imagenet")`, which are looked for below
--data, and sets of your own by path:

    suites.own("pets", path="/data/pets", n=3669, metric="mean_per_class_accuracy",
               prompts="/data/pets.json", train_path="/data/pets/train")
"""

from clipjax.evals import suites


def get_suite():
    return suites.Suite(
        "nightly",
        (
            suites.own("objects", source="objects"),
            suites.own("objects_noto", source="objects_noto"),
            suites.own("scenes", source="scenes", run=("retrieval",)),
        ),
    )
