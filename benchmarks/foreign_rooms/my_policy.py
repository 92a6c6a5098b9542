"""What a user of modereg writes: the foreign sampler as a policy that can be steered."""

import torch
from train import VelocityTransformer, sample

import modereg


def load():
    model = VelocityTransformer()
    model.load_state_dict(torch.load("policy/checkpoint.pt", weights_only=True))
    model.requires_grad_(False).eval()

    def decode(noise, observation):
        flat = sample(model, noise.reshape(-1, 32, 2), observation.reshape(-1, 8), steps=8)
        return flat.reshape(noise.shape)

    return modereg.as_generative_policy(
        decode, in_keys=["observation"], chunk_shape=(32, 2), module=model)
