"""The fast path of one CPU simulation, entered by :class:`.path.FastPath`.

Nine tenths of a stock simulation's step on a CPU are batched torch calls on a batch of one. What is
replaced here was measured to matter. A step without one of the parts takes so many times the CPU
seconds (PickCube-v1, StackCube-v1 and ModeregWall-v1 by ``pd_ee_delta_pos``): controllers 1.6, 1.5
and 1.8; reading poses 1.2, 1.1 and 1.0; the Panda's ``is_grasping`` 1.4, 1.2 and 1.0 (the wall does
not ask); without any of them 3.2, 2.8 and 2.7. Keeping contacts for a step, flattening the
observation and the Panda's ``is_static`` made no difference that could be told from noise, and stay
ManiSkill's; so do products of poses, which matter to ModeregLiftPeg-v1 alone (1.2).
"""
