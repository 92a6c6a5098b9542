from modereg_integrations.maniskill.env import ManiSkillEnv as ManiSkillEnv
from modereg_integrations.maniskill.tasks import make_task as make_task
