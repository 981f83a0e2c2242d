"""The numbers of each chart, once for the page and the figures: no HTML, no matplotlib."""
