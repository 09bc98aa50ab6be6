"""What `tests.cli.killing` wants to have imported."""

import cake_cli.cli.app
import cake_cli.cli.progress
import cake_cli.cli.running
import cake_cli.cli.summary
import cake_cli.estimating
import cake_cli.models.onnx.opening
import cake_cli.models.onnx.runtime
import cake_cli.models.onnx.trial
import cake_cli.pipeline
import cake_cli.report.page  # noqa: F401
