"""Functions for boxes, masks, image sizes, run lengths and groups, without weights. Imports only `backend/`."""
