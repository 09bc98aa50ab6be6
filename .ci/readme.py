"""Prints the commands of a README: the content of its ``bash`` blocks, in order."""

import re
import sys
from pathlib import Path

text = Path(sys.argv[1]).read_text(encoding="utf-8")
blocks = re.findall(r"^```bash\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
sys.stdout.write("\n".join(blocks))
