"""Mathematics and model surgery: sites, plans, banks, scaling, attaching and merging; no files, text or HTTP."""
