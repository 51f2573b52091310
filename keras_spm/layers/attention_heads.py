"""What attention layers ask of their channels."""


def check_heads(num_heads, channels):
    """Refuses heads that do not divide the channels.

    Raises:
        ValueError: with both numbers.
    """
    if channels % num_heads:
        raise ValueError(
            "`num_heads` must divide the channels. "
            f"Received: num_heads={num_heads}, channels={channels}"
        )
