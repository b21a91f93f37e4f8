"""What an error of convert or load says to do works when it is done."""

import re
import shutil

import numpy as np
import pytest

import clipjax
from clipjax import convert
from clipjax.build import pretrained
from clipjax.common.exits import CleanExit
from clipjax.data.tokenizers import clip as clip_tokenizer
from clipjax.data.tokenizers.siglip import SiglipTokenizer
from clipjax.models import config as model_config
from clipjax.weights import big_vision, formats, model_configs, open_clip, open_clip_siglip
from clipjax.weights.preprocessing import PREPROCESSOR, PROCESSOR
from tests.weights import small, vocabulary
from tests.weights import test_open_clip_settings as settings
from tests.weights import test_state_dicts as plain

MODEL = plain.MODEL


class Case:
    """A folder to make mistakes in; `wrong` does, `right` follows what the message said."""

    def __init__(self, folder):
        self.folder = folder
        self.output = folder / "out"

    def convert(self, path, *, to="clipjax", output=None, **options):
        convert.convert(str(path), to=to, output=str(output or self.output), **options)


class WeightsAlone(Case):
    said = "put their open_clip_config.json beside them, or add --model_config=FILE"

    def wrong(self):
        self.file = plain.save(self.folder / "a" / "x.safetensors", plain.arrays())
        self.convert(self.file)

    def right(self, message):
        named = plain.write(self.folder / "a" / open_clip.CONFIG, plain.config())
        self.convert(self.file)
        plain.assert_is(self.output)
        shutil.move(named, self.folder / "told.json")
        options = {"model_config": str(self.folder / "told.json")}
        self.convert(self.file, output=self.folder / "told", **options)
        plain.assert_is(self.folder / "told")
        clipjax.load(self.file, **options)


class AModelOfTheNamedOnes(Case):
    said = "nor a name of the zoo"

    def wrong(self):
        file = plain.save(self.folder / "a" / "x.safetensors", plain.arrays())
        self.convert(file, model_config="ViT-B-32")

    def right(self, message):
        names = re.search(r"a name of the zoo \((.*?)\)", message)[1].split(", ")
        for name in names:
            model, _ = model_configs.read(name)
            assert model_config.complete(model)


class AFolderForAFile(Case):
    said = "is a folder; name the JSON file in it"

    def wrong(self):
        small.write(self.folder / "told", MODEL, to="open_clip")
        self.file = plain.save(self.folder / "a" / "x.safetensors", plain.arrays())
        self.convert(self.file, model_config=str(self.folder / "told"))

    def right(self, message):
        self.convert(self.file, model_config=str(self.folder / "told" / open_clip.CONFIG))
        plain.assert_is(self.output)


class ARunThatKnows(Case):
    said = "drop model_config"

    def wrong(self):
        small.write(self.folder / "a", MODEL, to="open_clip")
        self.convert(self.folder / "a", output=self.folder / "run")
        clipjax.load(self.folder / "run", model_config="ViT-B/32")

    def right(self, message):
        clipjax.load(self.folder / "run")


class SeveralFiles(Case):
    said = "holds several: "

    def wrong(self):
        small.write(self.folder / "a", MODEL, to="huggingface")
        file = self.folder / "a" / "model.safetensors"
        for name in ("one.safetensors", "two.safetensors"):
            shutil.copy(file, file.with_name(name))
        file.unlink()
        self.convert(self.folder / "a")

    def right(self, message):
        self.convert(re.search(r"name the one that you want, (\S+)", message)[1])
        plain.assert_is(self.output)


class TwoModels(Case):
    said = "save the one that you want in a file of its own"

    def wrong(self):
        both = {f"{word}.{n}": x for word in "ab" for n, x in plain.arrays().items()}
        self.named = str(plain.write(self.folder / "told.json", plain.config()))
        self.convert(plain.save(self.folder / "x.safetensors", both), model_config=self.named)

    def right(self, message):
        alone = {f"b.{name}": value for name, value in plain.arrays().items()}
        self.convert(plain.save(self.folder / "b.safetensors", alone), model_config=self.named)


class TwoPreprocessors(Case):
    said = "remove the one that the model was not trained with"

    def wrong(self):
        small.write(self.folder / "a", MODEL, to="huggingface")
        other = {"image_processor": {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 32}}
        plain.write(self.folder / "a" / PROCESSOR, other)
        self.convert(self.folder / "a")

    def right(self, message):
        for name in (PROCESSOR, PREPROCESSOR):
            left = self.folder / f"without {name}"
            shutil.copytree(self.folder / "a", left)
            (left / name).unlink()
            self.convert(left, output=self.folder / f"out of {name}")


class AMissingVocabulary(Case):
    said = "name it with --tokenizer"

    def wrong(self):
        model = small.siglip()
        arrays = small.theirs(small.params(model), layout=big_vision.layout([], prefix=""))
        np.savez(self.folder / "siglip.npz", **arrays)
        self.convert(self.folder / "siglip.npz")

    def right(self, message):
        spiece = vocabulary.t5_like(self.folder, vocab_size=320)
        named = shutil.move(spiece, self.folder / "elsewhere.model")
        self.convert(self.folder / "siglip.npz", tokenizer=str(named))
        clipjax.load(self.folder / "siglip.npz", tokenizer=str(named))


class AVocabularyOfAnotherSize(Case):
    said = "name the right file with --tokenizer"

    def wrong(self):
        small.write(self.folder / "a", MODEL, to="open_clip")
        file = self.folder / "merges.txt"
        file.write_bytes(small.MERGES.rsplit(b"\n", 2)[0] + b"\n")
        self.convert(self.folder / "a", tokenizer=str(file))

    def right(self, message):
        (self.folder / "merges.txt").write_bytes(small.MERGES)
        self.convert(self.folder / "a", tokenizer=str(self.folder / "merges.txt"))


class NoMergesFile(Case):
    said = "needs its merges file, bpe_simple_vocab_16e6.txt.gz: name it"

    def wrong(self):
        small.write(self.folder / "a", MODEL, to="open_clip")
        for file in (self.folder / "a").iterdir():
            if file.suffix != ".safetensors" and file.name != open_clip.CONFIG:
                file.unlink()
        packages, clip_tokenizer.PACKAGES = clip_tokenizer.PACKAGES, ()
        try:
            self.convert(self.folder / "a")
        finally:
            clip_tokenizer.PACKAGES = packages

    def right(self, message):
        (self.folder / "merges.txt").write_bytes(small.MERGES)
        self.convert(self.folder / "a", tokenizer=str(self.folder / "merges.txt"))
        plain.assert_is(self.output)


class AnOutputThatExists(Case):
    said = "exists already; name a new folder"

    def wrong(self):
        small.write(self.folder / "a", MODEL, to="open_clip")
        self.output.mkdir()
        (self.output / "mine").touch()
        self.convert(self.folder / "a")

    def right(self, message):
        self.convert(self.folder / "a", output=self.folder / "new")


class AnUnknownFormat(Case):
    said = 'did you mean "huggingface"'

    def wrong(self):
        small.write(self.folder / "a", MODEL, to="open_clip")
        self.convert(self.folder / "a", to="hugging_face")

    def right(self, message):
        self.convert(self.folder / "a", to=re.search(r'did you mean "(\w+)"', message)[1])


class NothingSaid(Case):
    said = "--input=PATH --format=open_clip --output=FOLDER"

    def wrong(self):
        small.write(self.folder / "a", MODEL, to="huggingface")
        convert.convert("", to="clipjax", output="")

    def right(self, message):
        self.convert(self.folder / "a", to="open_clip")


class TowersThatDiffer(Case):
    said = "write --format=clipjax"

    def wrong(self):
        model = {**MODEL, "text": MODEL["text"] | {"activation": "quick_gelu"}}
        named = plain.write(self.folder / "told.json", plain.of_run(model))
        self.options = {"model_config": str(named)}
        self.file = plain.save(self.folder / "a" / "x.safetensors", plain.arrays())
        self.convert(self.file, to="huggingface", **self.options)

    def right(self, message):
        self.convert(self.file, to=re.search(r"--format=(\w+)", message)[1], **self.options)


class ASiglip(Case):
    """Of B/16's size, text of one layer, with settings of its own."""

    first, changes = "", {}

    def wrong(self):
        config = settings.siglip_config(layers=1, vocab_size=320, context_length=8)
        model = open_clip_siglip.model_of(config) | self.changes
        model["text"] |= {"width": 64, "heads": 2}
        tokenizer = SiglipTokenizer(
            vocabulary.t5_like(self.folder, vocab_size=320).read_bytes(), context_length=8
        )
        self.given = {
            "model": model,
            "variables": {"params": small.params(model)},
            "tokenizer": tokenizer,
        }
        formats.write(self.output, to=self.first, **self.given)

    def right(self, message):
        to = re.search(r"--format=(\w+)", message)[1]
        if to != "clipjax":  # which writes any model
            formats.write(self.output, to=to, **self.given)


class ASiglipThatCrops(ASiglip):
    said = "--format=open_clip"
    first, changes = "huggingface", {"image_resize": "crop"}


class ASiglipOfTanh(ASiglip):
    said = "--format=huggingface"
    first, changes = "open_clip", {"activation": "gelu_tanh"}


class ASiglipOfBoth(ASiglip):
    said = "--format=clipjax"
    first, changes = "open_clip", {"activation": "gelu_tanh", "image_resize": "crop"}


class ASiglipOfBothFromTheOther(ASiglipOfBoth):
    first = "huggingface"


class AnotherStep(Case):
    said = "has no step 7; it has 0"

    def wrong(self):
        small.write(self.folder / "a", MODEL, to="open_clip")
        self.convert(self.folder / "a", output=self.folder / "run")
        clipjax.load(self.folder / "run", step=7)

    def right(self, message):
        step = int(re.search(r"it has (\d+)", message)[1])
        assert pretrained.read(self.folder / "run", step=step)


class AnAddress(Case):
    said = "write hf://org/name"

    def wrong(self):
        clipjax.load("hf://name")

    def right(self, message):
        from clipjax.weights import hub

        for address in re.findall(r"hf://org/\S+", message):
            assert hub.ADDRESS.fullmatch(address)


def all_below(case):
    return [one for below in case.__subclasses__() for one in (below, *all_below(below))]


CASES = [case for case in all_below(Case) if hasattr(case, "said")]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_what_the_message_says_works(case, tmp_path):
    made = case(tmp_path)
    with pytest.raises(CleanExit, match=re.escape(case.said)) as caught:
        made.wrong()
    message = str(caught.value)
    assert "\n" not in message
    made.right(message)
