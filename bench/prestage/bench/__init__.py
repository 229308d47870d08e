"""What all of it is worth: cold against warm, ours against the rivals. Measures, never decides."""
