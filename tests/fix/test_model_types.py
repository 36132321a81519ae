"""With the fix every model of transformers with such a convolution computes and learns the same."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from qwenprof.fix.patch import TALLY, fixed, is_fixed
from tests.fix._small_models import (
    CLIPS,
    PATCHES,
    build,
    build_emu3,
    encode,
    modeling,
    patch_convolutions,
    pixels_for,
    tensors,
)

LOG = logging.getLogger(__name__)
SPECS = (*PATCHES, *CLIPS)
# Their configurations cannot build a model in transformers 5.23.0 unless a value is put in.
BROKEN_DEFAULTS = {"cohere_compass", "qwen3_omni_moe", "qwen4_exp"}


@pytest.mark.parametrize("model_type", SPECS)
def test_output_and_gradients_are_those_of_the_convolution(model_type: str) -> None:
    model = build_or_skip(model_type)
    convolutions = patch_convolutions(model)
    pixels = pixels_for(model_type, convolutions[0])
    ran = TALLY.convolutions
    plain = with_gradients(model_type, model, pixels)
    assert TALLY.convolutions == ran

    with fixed():
        linear = with_gradients(model_type, model, pixels)

    assert TALLY.convolutions == ran + len(convolutions)
    assert not is_fixed()
    sizes = {name: each.abs().max() for name, each in plain.items()}
    assert all(sizes.values()), "a tensor of zeros proves nothing"
    torch.testing.assert_close(
        {name: each / sizes[name] for name, each in linear.items()},
        {name: each / sizes[name] for name, each in plain.items()},
        rtol=0,
        atol=round_off(convolutions[0]),
    )


def test_emu3_is_untouched() -> None:
    model, clip = build_emu3(), torch.randn(1, 4, 3, 16, 16)
    assert [each for each in model.modules() if isinstance(each, nn.Conv3d)]
    assert not patch_convolutions(model)
    ran = TALLY.calls
    plain = there_and_back(model, clip)

    with fixed():
        ours = there_and_back(model, clip)

    assert TALLY.calls == ran
    assert len(ours) == len(plain)
    assert all(torch.equal(*pair) for pair in zip(ours, plain, strict=True))


@pytest.mark.slow
def test_no_model_of_the_installed_transformers_is_missing() -> None:
    import transformers

    found, unknown = survey()

    listing = "\n".join(f"{name}: {reason}" for name, reason in unknown.items())
    LOG.warning("found %s\n%d types could not be built:\n%s", sorted(found), len(unknown), listing)
    assert found <= set(SPECS), f"not in tests/fix/_small_models.py: {found - set(SPECS)}"
    tested = {conv3d_source(name) for name in (*SPECS, "emu3")}
    untested = {conv3d_source(name) for name in unknown} - tested - {None}
    assert not untested, f"Conv3d of types that cannot be built, in {untested}:\n{listing}"
    known = len(list(transformers.CONFIG_MAPPING))
    assert len(unknown) < known / 5, f"blind, of {known} types not built:\n{listing}"
    if transformers.__version__ == "5.23.0":
        assert set(SPECS) - found == BROKEN_DEFAULTS


def build_or_skip(model_type: str) -> nn.Module:
    import transformers

    if model_type not in transformers.CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no model type {model_type}")
    return build(model_type)


def with_gradients(
    model_type: str, model: nn.Module, pixels: torch.Tensor
) -> dict[str, torch.Tensor]:
    """All outputs, and what a fixed random projection of them sends back, by name."""
    model.zero_grad()
    pixels = pixels.clone().requires_grad_()
    outputs = encode(model_type, model, pixels)
    torch.manual_seed(2)
    torch.stack([(each * torch.randn_like(each)).sum() for each in outputs]).sum().backward()
    named = {f"output {index}": each.detach() for index, each in enumerate(outputs)}
    learned = {"pixels": pixels}
    for index, conv in enumerate(patch_convolutions(model)):
        learned |= {f"conv {index} {name}": each for name, each in conv.named_parameters()}
    return named | {f"gradient of {name}": gradient(each) for name, each in learned.items()}


def gradient(leaf: torch.Tensor) -> torch.Tensor:
    assert leaf.grad is not None
    return leaf.grad.clone()


def round_off(conv: nn.Conv3d) -> float:
    """What summing K products in another order may change in fp32: K u, with u = 2^-24.

    That is the bound for one dot product, relative to the sum of |products| (Higham, Accuracy and
    Stability of Numerical Algorithms, 3.1). It is pessimistic: errors mostly cancel and stay near
    sqrt(K) u, some thirty times less, which is the room for the layers that follow.
    """
    return conv.weight[0].numel() * torch.finfo(torch.float32).eps / 2


def there_and_back(model: Any, clip: torch.Tensor) -> list[torch.Tensor]:
    """Hidden states and tokens of a clip, and the clip made of the tokens again."""
    with torch.inference_mode():
        encoded = model.encode(clip, image_sizes=torch.tensor([clip.shape[-2:]]))
        # transformers 4.57 gives the tokens alone
        tokens = getattr(encoded, "image_tokens", encoded)
        return [*tensors(encoded), model.decode(torch.stack(list(tokens)))]


def survey() -> tuple[set[str], dict[str, str]]:
    """The model types with such a convolution, and the ones that cannot be built, with reasons."""
    from transformers import CONFIG_MAPPING

    answers = {model_type: has_patch_convolution(model_type) for model_type in CONFIG_MAPPING}
    found = {model_type for model_type, answer in answers.items() if answer is True}
    return found, {key: answer for key, answer in answers.items() if isinstance(answer, str)}


def has_patch_convolution(model_type: str) -> bool | str:
    """Whether a model of the default configuration has one; or why that cannot be told."""
    from transformers import CONFIG_MAPPING

    try:
        models = on_meta(CONFIG_MAPPING[model_type]())
        return any(patch_convolutions(model) for model in models)
    except Exception as error:  # noqa: BLE001 - whatever a model raises is the reason
        return f"{type(error).__name__}: {str(error).strip()[:100]}"


def on_meta(config: Any) -> Iterator[nn.Module]:
    """The models of a configuration without memory for weights, each built when asked for.

    Raises:
        LookupError: there is no model of this configuration.
    """
    classes = architectures(config)
    if not classes:
        raise LookupError("no model class names this configuration as its own")
    for each in classes:
        with torch.device("meta"):
            model = each(config)
        yield model


def architectures(config: Any) -> list[Any]:
    """AutoModel's class for a configuration; without one, all that name it as theirs."""
    from transformers import MODEL_MAPPING, PreTrainedModel

    if type(config) in MODEL_MAPPING:
        known = MODEL_MAPPING[type(config)]
        return list(known) if isinstance(known, tuple) else [known]
    return [
        each
        for each in vars(modeling(config)).values()
        if inspect.isclass(each)
        and issubclass(each, PreTrainedModel)
        and each.config_class is type(config)
        and "__init__" in vars(each)
    ]


def conv3d_source(model_type: str) -> str | None:
    """The Python module of the models, if a Conv3d is in its source; it need not be buildable."""
    from transformers import CONFIG_MAPPING

    try:
        module = modeling(CONFIG_MAPPING[model_type]())
        return module.__name__ if "Conv3d" in inspect.getsource(module) else None
    except Exception:  # noqa: BLE001 - the survey has the reason already
        return None
