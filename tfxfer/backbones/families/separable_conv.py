"""Separable convolutions: a small encoder to distill from a large one.

Blocks of a depthwise-separable convolution (Chollet, 2017, https://arxiv.org/abs/1610.02357) and a feed-forward part,
each after a norm and with a residual connection. A block sees `kernel_size` neighboring tokens, `n` blocks see
`1 + n * (kernel_size - 1)`. The cost per token does not depend on the length of its text, and texts may have any
length. There are no checkpoints: `models.conv_student` creates such an encoder from a teacher.
"""

from tfxfer import _check
from tfxfer.backbones._convolution import SeparableConvolution
from tfxfer.backbones._family import Family


class SeparableConv(Family):
    """Convolutions instead of attention, and no positions."""

    name = "separable_conv"
    has_position_table = False
    order = "pre"
    has_final_norm = True
    attention = SeparableConvolution
    options = {
        "num_heads": 1,
        "kernel_size": 5,
        "embedding_dim": lambda a: a["hidden_dim"],
        "intermediate_dim": lambda a: 2 * a["hidden_dim"],
        "max_sequence_length": 512,
    }
    config: dict = {}

    def check(self, a):
        """Also rejects more than one attention head."""
        super().check(a)
        if a.num_heads != 1:
            raise _check.invalid("num_heads", "1, the default: convolutions have no heads", a.num_heads)

    def shared(self, a):
        """Returns no layers: convolutions need neither a bias nor positions."""
        return {}

    def attention_options(self, a):
        """Returns the kernel size."""
        return {"kernel_size": a.kernel_size}

    def block_options(self, a, number):
        """Makes the blocks take only states."""
        return {"takes": {}}

    def to_config(self, arguments):
        """Raises: no other library has this encoder."""
        raise _check.invalid("format", "'tfxfer' for the family 'separable_conv'", "another library's")


FAMILY = SeparableConv()
