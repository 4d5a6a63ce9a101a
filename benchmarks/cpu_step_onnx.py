"""The transformer part of a step in onnxruntime, for `cpu_step.py`: exported from a plain formula, float32 and int8."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from wavlm_live.model import WavLMModel

Inputs = Callable[[WavLMModel, torch.dtype], tuple[Tensor, ...]]
Runs = Callable[[], Tensor]


class _Ordered:
    """Cached keys and values in order before the new ones, the bias as a matrix, softmax written out."""

    def __init__(self, bias: Tensor, keys: Tensor, values: Tensor):
        self.bias, self.keys, self.values = bias, keys, values
        self.new: list[Tensor] = []

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, gate: Tensor, dropout: float):
        heads, size = q.shape[2:]
        self.new += [k.flatten(2), v.flatten(2)]
        both = []
        for held, new in ((self.keys, k), (self.values, v)):
            both.append(torch.cat([held[:, layer].unflatten(-1, (heads, size)), new], 1).transpose(1, 2))
        scores = q.transpose(1, 2) @ both[0].transpose(-1, -2) * size**-0.5
        scores = scores + gate.transpose(1, 2).unsqueeze(-1) * self.bias
        return (scores.softmax(-1) @ both[1]).transpose(1, 2), None


class PlainStep(nn.Module):
    """x, position, bias, keys, values -> the output and all new keys and values."""

    def __init__(self, model: WavLMModel):
        super().__init__()
        self.encoder = model.encoder

    def forward(self, x: Tensor, position: Tensor, bias: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        layout = _Ordered(bias, keys, values)
        return self.encoder(x, position, layout)[0], torch.stack(layout.new)


def onnx_sides(
    model: WavLMModel, inputs: Inputs, left: int, committed: int
) -> dict[str, Callable[[], Callable[[], Tensor]]]:
    """How to build each; onnx, onnxscript and onnxruntime are imported when one is built."""
    folder = tempfile.TemporaryDirectory()  # goes when what is returned goes
    made: dict[str, Path] = {}

    def arguments() -> tuple[Tensor, ...]:
        x, position, rel, _, keys, values, _ = inputs(model, torch.float32)
        chunk = x.shape[1]
        distance = torch.arange(-left, chunk) - torch.arange(chunk)[:, None]
        turned = committed % left
        held = (t.roll(-turned, 2).flatten(3) for t in (keys, values))
        return x, position, rel[:, distance + rel.shape[1] // 2], *held

    def exported() -> Path:
        if "float32" not in made:
            path = Path(folder.name) / "step.onnx"
            torch.onnx.export(PlainStep(model), arguments(), str(path), dynamo=True, verbose=False)
            made["float32"] = path
        return made["float32"]

    def session(path: Path) -> Callable[[], Tensor]:
        import onnxruntime  # pyright: ignore[reportMissingImports]

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        run = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        fed = {i.name: x.numpy() for i, x in zip(run.get_inputs(), arguments(), strict=True)}
        return lambda: torch.from_numpy(run.run(None, fed)[0])

    def int8() -> Callable[[], Tensor]:
        from onnxruntime.quantization import QuantType, quantize_dynamic  # pyright: ignore[reportMissingImports]

        path = Path(folder.name) / "int8.onnx"
        quantize_dynamic(
            str(exported()), str(path), op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8
        )
        return session(path)

    return {"onnxruntime float32": lambda: session(exported()), "onnxruntime int8": int8}
