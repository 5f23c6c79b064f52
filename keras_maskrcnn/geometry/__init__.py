"""Mathematics of boxes, masks, image sizes and run lengths, without weights. Above it only `backend/`."""
