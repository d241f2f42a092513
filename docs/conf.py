"""How the documentation is built: ``make docs``, or ``sphinx-build -W --keep-going docs docs/_build/html``.

Nothing is fetched while building or reading: formulas become MathML, tables are made from ``benchmarks/results``, the
API reference from the package, the gallery from the examples.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the examples are small: threads would cost more than they bring

import api_pages  # noqa: E402
import markdown_pages  # noqa: E402
import matplotlib  # noqa: E402

import skinfluence  # noqa: E402

matplotlib.use("Agg")
warnings.simplefilter("default")

project = "skinfluence"
author = "The skinfluence developers"
copyright = f"2026, {author}"
version = release = skinfluence.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
    "sphinx_copybutton",
    "mathml",
    "benchmark_tables",
    "markdown_pages",
    "large_plan",
    "method_tables",
    "api_pages",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "examples", "code", "sg_execution_times.rst", "**/sg_execution_times.rst"]
default_role = "py:obj"  # docstrings name objects in single backticks
add_module_names = False
python_use_unqualified_type_names = True

# --- API reference ----------------------------------------------------------------------------------------------------

autosummary_generate = True
autodoc_typehints = "none"  # numpydoc sections say them
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
numpydoc_use_plots = False
api_pages.write(HERE / "api")
markdown_pages.write(HERE / "results")

# --- gallery ----------------------------------------------------------------------------------------------------------

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"plot_",
    "within_subsection_order": "FileNameSortKey",
    "doc_module": ("skinfluence",),
    "backreferences_dir": "api/backreferences",
    "prefer_full_module": {r"skinfluence\.(methods|objectives|plotting|metrics|models|snapshots|preconditioners)"},
    "abort_on_example_error": True,
    "reset_modules": ("matplotlib",),
    "remove_config_comments": True,
    "show_memory": False,
    "min_reported_time": 1,
    "show_signature": False,
    "plot_gallery": "True",
    "capture_repr": ("_repr_html_", "__repr__"),
    "ignore_repr_types": r"matplotlib\.|skinfluence\.plotting",
}

# --- HTML -------------------------------------------------------------------------------------------------------------

html_theme = "furo"
html_title = f"skinfluence {version}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_favicon = "_static/favicon.svg"
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "navigation_with_keys": True,
    "light_css_variables": {"color-brand-primary": "#00598c", "color-brand-content": "#00598c"},
    "dark_css_variables": {"color-brand-primary": "#7cc4ee", "color-brand-content": "#7cc4ee"},
}
pygments_style = "a11y-light"
pygments_dark_style = "a11y-dark"
