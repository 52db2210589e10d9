"""DP-Pix (Fan, "Image pixelization with differential privacy", DBSec 2018): averages of cells with Laplace noise.

Two images that differ in at most `m` pixels get the same release up to a factor exp(epsilon) in probability.
"""

import numpy as np
import torch
import torch.nn.functional as F

from raysweep.anonymizers.base import Anonymizer
from raysweep.search.parameters import Float, Int


class DPPix(Anonymizer):
    name = "example/dp-pix"
    reference = "Fan, DBSec 2018, doi 10.1007/978-3-319-95729-6_10"
    parameters = {  # noqa: RUF012
        "epsilon": Float(0.01, 1000.0, 1.0, log=True, why="privacy budget of one image; smaller hides more"),
        "cell": Int(2, 56, 8, unit="pixels", why="side of a cell; larger needs less noise"),
        "m": Int(1, 4096, 16, unit="pixels", why="how many pixels two neighbouring images may differ in"),
    }

    def anonymize(self, faces):
        cell, size = self.setting["cell"], faces.frame.size
        mean = F.avg_pool2d(faces.image.float(), cell, ceil_mode=True, count_include_pad=False).cpu()
        scale = 255 * self.setting["m"] / (cell**2 * self.setting["epsilon"])
        noise = [np.random.default_rng(seed).laplace(0, scale, mean.shape[1:]) for seed in faces.seed]
        noisy = (mean + torch.from_numpy(np.stack(noise)).float()).clamp(0, 255).round().to(torch.uint8)
        return noisy.repeat_interleave(cell, 2).repeat_interleave(cell, 3)[:, :, :size, :size].to(faces.image.device)
