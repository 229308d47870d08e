"""Our minimal protos (field numbers as upstream has them, what we do not use left out), and what is generated from them."""
