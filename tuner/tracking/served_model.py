"""The code of a registered model. It is stored with the model in MLflow and needs torch, but not this project.

MLflow runs this file instead of unpickling an object, and torch reads only weights from the `.pt2` file.
"""

import os

import mlflow
import numpy as np


class Exported(mlflow.pyfunc.PythonModel):
    """An exported model as MLflow serves it."""

    def load_context(self, context):
        os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
        import torch

        self.model = torch.export.load(os.path.join(context.artifacts["bundle"], "model.pt2")).module()

    def predict(self, context, model_input, params=None):
        """Logits (B, K) of images (B, C, H, W), float32 in [0, 1]. No type hints: MLflow would act on them."""
        import torch

        with torch.no_grad():
            return self.model(torch.from_numpy(np.array(model_input, dtype=np.float32))).numpy()


mlflow.models.set_model(Exported())
