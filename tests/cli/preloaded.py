"""What `tests.cli.killing` wants to have imported."""

import cake_cli.cli.app
import cake_cli.estimating
import cake_cli.pipeline
import cake_cli.report.page  # noqa: F401
