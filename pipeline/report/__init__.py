"""What people see of a plan, a run and the catalogue of steps and recipes."""
