"""Many runs of one recipe: which they are, what is done already, and each in a process of its own."""
