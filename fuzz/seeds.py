"""Write the corpus of the model fuzzer again, after a change of the format: `PYTHONPATH=tests python fuzz/seeds.py`.

The corpus of the image fuzzer does not depend on the format: sizes, options and a few pixels, in the order in which fuzz/image.c reads
them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from random_models import classifier, random_model, random_stage, small_model

from dupnet import packed

FOLDER = Path(__file__).parent / "corpus/model"

if __name__ == "__main__":
    rng = np.random.default_rng(3)
    only = random_stage(rng, in_channels=3, filters=5, kernel=1, input_bits=8, output_bits=0)
    packed.save(random_model(rng, [only], anchors=1, name="one"), FOLDER / "one")
    stages = [
        random_stage(rng, in_channels=3, filters=2, kernel=1, pool=2, weight_bits=8, input_bits=8, output_bits=1, map_copies=2),
        random_stage(rng, in_channels=2, filters=9, pool=2, input_bits=1, map_copies=4, weight_copies=2),
        random_stage(rng, in_channels=9, filters=5, output_bits=0, weight_copies=3),
    ]
    packed.save(random_model(rng, stages, anchors=1, name="deep"), FOLDER / "deep")
    packed.save(small_model(), FOLDER / "small")
    stages = [
        random_stage(rng, in_channels=3, filters=4, kernel=5, step=2, padding=False, pool=3, pool_overlap=1, input_bits=8, map_copies=2),
        random_stage(rng, in_channels=4, filters=3, kernel=2, padding=False, output_bits=0),
    ]
    packed.save(classifier(rng, stages, size=13, name="classes"), FOLDER / "classes")
