"""`prestage bench plan`: the product's planner on any trace of pod starts, beside what others do and what cannot be beaten."""
