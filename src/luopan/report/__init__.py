"""Reports: plain data in (`data.py`), one self-contained HTML page out (`page.py`).

The page needs no network: no scripts, no fonts, no style sheets from elsewhere, every picture is inline SVG. Imports
nothing of Luopan's but its errors.
"""
