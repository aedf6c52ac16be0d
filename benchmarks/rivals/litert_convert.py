"""``python litert_convert.py STEM``: <stem>.pt2 as <stem>.tflite, fp32, channels last. Runs in the environment that has litert-torch."""

import sys

import litert_torch
import torch

if __name__ == "__main__":
    program = torch.export.load(f"{sys.argv[1]}.pt2")
    x = program.example_inputs[0][0] if program.example_inputs else None
    model = litert_torch.to_channel_last_io(program.module(), args=[0])
    litert_torch.convert(model, (x.permute(0, 2, 3, 1).contiguous(),)).export(f"{sys.argv[1]}.tflite")
