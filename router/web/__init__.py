"""What the pages for a browser are made of: templates, styles and plots."""
