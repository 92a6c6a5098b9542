from modereg_integrations.transformers.cloning import clone as clone
from modereg_integrations.transformers.cloning import fit_statistics as fit_statistics
from modereg_integrations.transformers.cloning import flow_matching_loss as flow_matching_loss
from modereg_integrations.transformers.fresh import fresh_model as fresh_model
from modereg_integrations.transformers.policy import PI0Policy as PI0Policy
from modereg_integrations.transformers.prefix import Prefix as Prefix
from modereg_integrations.transformers.statistics import Statistics as Statistics
