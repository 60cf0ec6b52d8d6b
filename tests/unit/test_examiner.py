"""Weights against their configs: what fits is silent, what does not is named, and what is not known is left unsaid."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loaders import examiner
from registry import folders
from registry.examination import Lora, Question, Shapes, Verdict
from router.examining import Examiner
from tests import architectures, tiny

pytestmark = [
    pytest.mark.filterwarnings("ignore:::diffusers"),
    pytest.mark.filterwarnings("ignore:::transformers"),
]

EMBEDDER = "context_embedder.weight"


def _question(folder: Path) -> Question:
    manifest, tree = folders.read_pipeline(folder), folders.Folder(folder)
    parts = tuple(folders.part_of(tree, component) for component in manifest.components)
    return Question(pipeline_class=manifest.pipeline_class, parts=parts)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Question:
    return _question(tiny.save_pipeline(tmp_path_factory.mktemp("tiny") / "base"))


def _changed(whole: Question, role: str, **facts: Any) -> Question:
    parts = [msgspec.structs.replace(p, **facts) if p.name == role else p for p in whole.parts]
    return msgspec.structs.replace(whole, parts=tuple(parts))


def _part(whole: Question, role: str) -> Any:
    return next(part for part in whole.parts if part.name == role)


def test_a_saved_pipeline_fits_itself(whole: Question) -> None:
    assert examiner.examine(whole) == Verdict()


def test_a_tensor_of_another_shape_is_named(whole: Question) -> None:
    wide = {**_part(whole, "transformer").config, "caption_projection_dim": 64}
    verdict = examiner.examine(_changed(whole, "transformer", config=wide))
    assert verdict.error == "ConfigMismatchError"
    assert verdict.message == (
        "transformer: context_embedder.bias has the shape [32]; its config makes it [64]"
    )


def test_a_missing_tensor_is_named(whole: Question) -> None:
    shapes = dict(_part(whole, "vae").shapes)
    del shapes["decoder.conv_in.weight"]
    verdict = examiner.examine(_changed(whole, "vae", shapes=shapes))
    assert (verdict.error, verdict.message) == (
        "ConfigMismatchError",
        "vae: AutoencoderKL: the files hold no decoder.conv_in.weight",
    )


def test_a_tensor_without_a_place_is_named(whole: Question) -> None:
    config = {**_part(whole, "transformer").config, "num_layers": 1}
    verdict = examiner.examine(_changed(whole, "transformer", config=config))
    assert verdict.error == "ConfigMismatchError"
    assert "transformer_blocks.1." in str(verdict.message) or "transformer_blocks.0." in str(verdict.message)


def test_older_names_of_attention_weights_are_known(whole: Question) -> None:
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    given = _part(whole, "vae").shapes
    shapes = dict(given)
    for new, former in old.items():
        shapes = {
            name.replace(f"attentions.0.{new}.", f"attentions.0.{former}."): shape
            for name, shape in shapes.items()
        }
    assert shapes.keys() != _part(whole, "vae").shapes.keys()
    assert examiner.examine(_changed(whole, "vae", shapes=shapes)).error is None


def test_a_class_that_nobody_knows_is_left_unsaid(whole: Question) -> None:
    verdict = examiner.examine(_changed(whole, "transformer", class_name="TheirOwnTransformer"))
    assert verdict == Verdict(unexamined=("transformer",))
    verdict = examiner.examine(_changed(whole, "vae", library="theirs"))
    assert verdict == Verdict(unexamined=("vae",))


def test_a_config_that_cannot_be_built_is_refused(whole: Question) -> None:
    verdict = examiner.examine(_changed(whole, "vae", config={"block_out_channels": "many"}))
    assert (verdict.error, "AutoencoderKL cannot be built" in str(verdict.message)) == (
        "ArchitectureError",
        True,
    )


@pytest.mark.parametrize(("family", "layout"), [("sd15", "kohya"), ("sdxl", "kohya"), ("flux", "diffusers")])
def test_a_lora_is_known_by_its_shapes_alone(family: str, layout: Any, tmp_path: Path) -> None:
    folder = architectures.write(tmp_path / family, family, seed=1)
    file = architectures.write_lora(
        tmp_path / "lora.safetensors", folder, rank=8, alpha=2.0 if layout == "kohya" else None, layout=layout
    )
    index = folders.read_index(file)
    shapes: Shapes = {name: tensor.shape for name, tensor in index.tensors.items()}
    question = msgspec.structs.replace(_question(folder), lora=Lora(shapes=shapes, metadata=index.metadata))
    assert examiner.examine(question) == Verdict(
        rank=8, layout=layout, target_modules=("to_k", "to_out.0", "to_q", "to_v")
    )
    first = next(name for name in shapes if "lora_down" in name or "lora_A" in name)
    narrow = Lora(shapes={**shapes, first: (8, 3)})
    verdict = examiner.examine(msgspec.structs.replace(question, lora=narrow))
    assert (verdict.error, "(" in str(verdict.message)) == ("AdapterMismatchError", True)


def _pair(down: tuple[int, ...], up: tuple[int, ...]) -> Mapping[str, Any]:
    return {
        "transformer.context_embedder.lora_A.weight": down,
        "transformer.context_embedder.lora_B.weight": up,
    }


STRANGE: list[tuple[Mapping[str, Any], str]] = [
    ({"transformer.x_embedder.lora_A.weight": (4, 8)}, "AdapterFormatError"),
    ({"something.else": (3,)}, "AdapterMismatchError"),
    ({"lora_unet_nothing_to_q.lora_down.weight": (4, 8), "lora_unet_nothing_to_q.hada_w1_a": (4, 8)}, "AdapterFormatError"),
    ({"unet.a.lora_A.weight": (4, 8), "unet.a.lora_B.weight": (8, 4)}, "AdapterMismatchError"),
    ({"transformer.nowhere.lora_A.weight": (4, 8), "transformer.nowhere.lora_B.weight": (8, 4)}, "AdapterMismatchError"),
    (_pair((0, 16), (32, 0)), "AdapterFormatError"),
    (_pair((), (32, 4)), "AdapterFormatError"),
    (_pair((4, 16), (4,)), "AdapterFormatError"),
    (_pair((4, 16), (32, 4, 3, 3)), "AdapterFormatError"),
    (_pair((1 << 20, 16), (32, 1 << 20)), "AdapterFormatError"),
]  # fmt: skip
NAMES = [
    "half a pair", "no LoRA", "a LoHa", "another role", "another layer", "of rank 0", "without dimensions",
    "half without rows", "of a kernel that is no pair", "of a rank that would fill a host",
]  # fmt: skip


@pytest.mark.parametrize(("shapes", "error"), STRANGE, ids=NAMES)
def test_what_is_no_lora_for_this_model_is_refused(whole: Question, shapes: Shapes, error: str) -> None:
    verdict = examiner.examine(msgspec.structs.replace(whole, lora=Lora(shapes=shapes)))
    assert verdict.error == error, verdict


@pytest.mark.parametrize(
    "settings",
    [
        "{",
        "[]",
        '{"transformer.lora_alpha": "nan"}',
        '{"transformer.lora_alpha": [1]}',
        '{"transformer.lora_alpha": 1, "transformer.alpha_pattern": [1]}',
        '{"transformer.lora_alpha": 1, "transformer.alpha_pattern": {"context_embedder": []}}',
    ],
)
def test_settings_that_are_none_are_refused_by_name(whole: Question, settings: str) -> None:
    rows, columns = _part(whole, "transformer").shapes[EMBEDDER]
    lora = Lora(shapes=_pair((4, columns), (rows, 4)), metadata={"lora_adapter_metadata": settings})
    plain = Lora(shapes=lora.shapes, metadata={})
    verdicts = [examiner.examine(msgspec.structs.replace(whole, lora=one)).error for one in (plain, lora)]
    assert verdicts == [Verdict().error, "AdapterFormatError"]


@pytest.mark.parametrize(
    "config",
    [
        {"_attn_implementation": "stranger/kernel"},
        {"attn_implementation": {"": "stranger/kernel"}},
        {"experts_implementation": "stranger/kernel@main:function"},
        {"text_config": {"attn_implementation": "flash_attention_2"}},
    ],
)
def test_kernels_that_a_config_would_have_fetched_from_the_hub_are_refused(
    whole: Question, config: Mapping[str, Any]
) -> None:
    """Transformers downloads and runs them, where the package `kernels` is installed."""
    role = next(part.name for part in whole.parts if part.library == "transformers")
    named = _changed(whole, role, config={**_part(whole, role).config, **config})
    verdict = examiner.examine(named)
    assert (verdict.error, "kernels of others" in (verdict.message or "")) == ("ArchitectureError", True)


async def test_its_own_process_answers_and_dies_alone(
    whole: Question, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small program stands for it here: importing torch once more would take long."""
    program = (
        "import sys, json, os\n"
        "print('ready', flush=True)\n"
        "for line in sys.stdin:\n"
        "    name = json.loads(line)['pipeline_class']\n"
        "    if name == 'Dies': os._exit(9)\n"
        "    if name == 'Hangs': import time; time.sleep(60)\n"
        "    print(json.dumps({'unexamined': [name, str(os.getpid())]}), flush=True)\n"
    )
    real = asyncio.create_subprocess_exec

    async def small(*command: str, **options: Any) -> Any:
        assert command[1:] == ("-P", "-m", "loaders.examiner")
        return await real(command[0], "-c", program, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", small)
    one = Examiner(answer_seconds=5.0, idle_seconds=0.2)
    ask = lambda name: one(Question(pipeline_class=name, parts=()))  # noqa: E731
    first, second = await ask("A"), await ask("B")
    assert (first.unexamined[0], second.unexamined[0]) == ("A", "B")
    assert first.unexamined[1] == second.unexamined[1], "one process for both"
    assert (await ask("Dies")).error == "ExaminationError"
    third = await ask("C")
    assert third.unexamined[1] != first.unexamined[1]
    await asyncio.sleep(0.5)
    assert (await ask("D")).unexamined[1] != third.unexamined[1], "an idle one was ended"
    one._answer_seconds = 0.5
    assert (await ask("Hangs")).error == "ExaminationError"
    await one.close()


def test_the_process_answers_a_line_a_question(monkeypatch: pytest.MonkeyPatch, capfdbinary: Any) -> None:
    import io
    import resource
    import sys

    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    lines = msgspec.json.encode(Question(pipeline_class="X", parts=())) + b"\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines * 2)))
    monkeypatch.setattr(sys, "stdout", sys.__stdout__)
    monkeypatch.setattr(sys, "stderr", sys.__stderr__)
    examiner.main()
    ready, *verdicts = capfdbinary.readouterr().out.splitlines()
    assert (ready, [json.loads(line) for line in verdicts]) == (b"ready", [{}, {}])
