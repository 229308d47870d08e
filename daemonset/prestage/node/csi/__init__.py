"""The CSI driver of one node: pods' volumes from artifacts, authorised, held, composed and bound read-only."""
