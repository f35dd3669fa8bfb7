"""What everything rests on: with this you can read settings (`flags`), raise designed errors (`errors`) and take trees apart
(`tree`). It needs nothing of Mainspring.
"""
