"""The code of a registered model: it travels with the model into MLflow and needs torch alone, not this project.

MLflow runs this file (no pickle of ours), and torch is told to read weights only, whatever a `.pt2` file asks for.
"""

import os

import mlflow
import numpy as np


class Exported(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
        import torch

        self.model = torch.export.load(os.path.join(context.artifacts["bundle"], "model.pt2")).module()

    def predict(self, context, model_input, params=None):
        """Images (B, C, H, W), float32 in [0, 1] -> logits (B, K)."""
        import torch

        with torch.no_grad():
            return self.model(torch.from_numpy(np.array(model_input, dtype=np.float32))).numpy()


mlflow.models.set_model(Exported())
