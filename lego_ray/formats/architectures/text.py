"""The text encoders of image models. All tools use the same module names, with or without dots."""

from __future__ import annotations

from lego_ray.formats.architectures.row import Row
from lego_ray.formats.architectures.rows import Architecture, same

_LAYER = "text_model.encoder.layers.#."
_CLIP = (
    *(f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")),
    *("mlp.fc1", "mlp.fc2"),
)

CLIP = Architecture(
    "CLIP",
    (
        *same(*(f"{_LAYER}{name}" for name in _CLIP), "text_projection"),
        # transformers from 5 on has no text_model
        *(Row(f"{_LAYER}{name}", (f"encoder.layers.#.{name}",)) for name in _CLIP),
    ),
)

T5 = Architecture(
    "T5",
    same(
        *(f"encoder.block.#.layer.#.SelfAttention.{part}" for part in "qkvo"),
        *(
            f"encoder.block.#.layer.#.{block}.{part}"
            for block in ("DenseReluDense",)
            for part in ("wi", "wi_0", "wi_1", "wo")
        ),
    ),
)
