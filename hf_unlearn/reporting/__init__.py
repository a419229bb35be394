"""What a person sees of a verification report: the terminal table, the plots and the page.

All numbers come from the report alone.
"""
