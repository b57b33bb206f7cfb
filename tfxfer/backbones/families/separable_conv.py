"""Separable convolutions: a small encoder to be distilled from a large one.

Blocks of a depthwise-separable convolution (Chollet, 2017, https://arxiv.org/abs/1610.02357) and a feed-forward part,
each after a norm and with a residual. A block sees `kernel_size` neighbouring tokens, `n` blocks
`1 + n * (kernel_size - 1)`. The cost of a token does not depend on the length of its text, and texts may be of any
length. There are no checkpoints: `models.conv_student` makes such an encoder from a teacher.
"""

from tfxfer import _check
from tfxfer.backbones._convolution import SeparableConvolution
from tfxfer.backbones._family import Family


class SeparableConv(Family):
    """Convolutions in the place of attention, and no positions."""

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
        """Refuses heads of attention."""
        super().check(a)
        if a.num_heads != 1:
            raise _check.invalid("num_heads", "1, the default: convolutions have no heads", a.num_heads)

    def shared(self, a):
        """Returns nothing: convolutions need no bias and no positions."""
        return {}

    def attention_options(self, a):
        """Returns the size of the kernels."""
        return {"kernel_size": a.kernel_size}

    def block_options(self, a, number):
        """Returns that blocks take nothing but states."""
        return {"takes": {}}

    def to_config(self, arguments):
        """Refuses: no other library has this encoder."""
        raise _check.invalid("format", "'tfxfer' for the family 'separable_conv'", "another library's")


FAMILY = SeparableConv()
