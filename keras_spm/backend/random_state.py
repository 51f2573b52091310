"""Random state that no Keras variable holds."""

import keras


def random_state():
    """Returns {name: numpy array} of the backend's own generators.

    Keras draws from its `SeedGenerator`s, whose state is in variables; only PyTorch's fast
    dropout draws from the generators of PyTorch, one for each device. Elsewhere it is empty.
    """
    if keras.config.backend() != "torch":
        return {}
    import torch

    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        for number, state in enumerate(torch.cuda.get_rng_state_all()):
            states[f"cuda:{number}"] = state
    return {device: state.numpy().copy() for device, state in states.items()}


def set_random_state(states):
    """Sets what `random_state` returned; a device that is not there any more is left out."""
    if not states:
        return
    import torch

    for device, state in states.items():
        if device == "cpu":
            torch.set_rng_state(torch.from_numpy(state))
        elif int(device.removeprefix("cuda:")) < torch.cuda.device_count():
            torch.cuda.set_rng_state(torch.from_numpy(state), device)
