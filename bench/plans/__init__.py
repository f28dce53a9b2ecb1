"""What the shipped document catches, and whether ``abmesh plan`` says what whole rollouts then do."""
