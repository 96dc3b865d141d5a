"""Settings of the documentation: Sphinx, pages in Markdown (MyST), the pydata theme. `make docs` builds it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extension"))

from bestiary import __version__

project = "bestiary"
author = "The bestiary maintainers"
copyright = "The bestiary maintainers, MIT licence"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "reference"]
exclude_patterns = ["_extension", "_static"]
smartquotes = False  # two hyphens are an option, never a dash
default_role = "code"  # docstrings write `name` for code

# ---- Markdown ------------------------------------------------------------------------------------------------------
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

# ---- Python reference ----------------------------------------------------------------------------------------------
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True
add_module_names = False

# ---- Pages ---------------------------------------------------------------------------------------------------------
html_theme = "pydata_sphinx_theme"
html_title = "bestiary"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_copy_source = html_show_sourcelink = False
html_show_sphinx = False
html_theme_options = {
    "logo": {"text": "bestiary"},
    "navbar_align": "left",
    "header_links_before_dropdown": 8,
    "navbar_end": ["theme-switcher"],
    "show_prev_next": True,
    "secondary_sidebar_items": {"**": ["page-toc"], "reference/settings": []},  # its tables need the width
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_center": [],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_sidebars = {"index": [], "tutorial": [], "comparison": [], "measured": [], "statistics": []}
